"""Our paged engine on OpenVINO kernels."""

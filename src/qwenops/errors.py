"""What can go wrong, and what it means at each door.

The tree::

    QwenOpsError                    exit 1   HTTP 500
    ├── ConfigError                 exit 2   HTTP 400   an option or a file of options is wrong
    ├── InvalidDataError            exit 2   HTTP 400   files of calls or labels are wrong; it names every place
    ├── InvalidRequestError         exit 2   HTTP 400   a request is wrong
    │   ├── ModelNotServedError     exit 2   HTTP 404   the request names a model that is not served
    │   ├── PromptTooLongError      exit 2   HTTP 400   the prompt cannot fit
    │   └── BodyTooLargeError       exit 2   HTTP 413   the body is over the limit
    ├── AuthenticationError         exit 2   HTTP 401   no key, or a wrong one
    ├── ForbiddenError              exit 2   HTTP 403   the key may not do this
    ├── LimitExceededError          exit 1   HTTP 429   the caller's own limit
    ├── OverloadedError             exit 1   HTTP 503   the server is full or draining
    ├── DeadlineError               exit 1   HTTP 504   a wait or a request took too long
    ├── ModelNotFoundError          exit 4   HTTP 404   no such model in the store or on the hub
    ├── ModelLoadError              exit 1   HTTP 500   files are missing, damaged or of another architecture
    │   ├── ConversionError         exit 1   HTTP 500   a converted tensor differs from its source
    │   ├── ParityError             exit 3   HTTP 500   a compressed classifier does not say what the original says
    │   └── UnsupportedModelError   exit 1   HTTP 500   it is no model, or one of another architecture
    ├── DownloadError               exit 1   HTTP 502   a transfer failed after its retries
    │   └── IntegrityError          exit 1   HTTP 502   a file's hash is not the published one
    ├── InsufficientMemoryError     exit 1   HTTP 507   needs more memory than the limit allows
    ├── InsufficientDiskError       exit 1   HTTP 507   needs more disk than is free
    ├── EngineError                 exit 1   HTTP 500   an engine failed at a request
    │   ├── EngineUnavailableError  exit 4   HTTP 503   an engine is not installed, not running or restarting
    │   │   └── NoConnectionLeftError exit 4 HTTP 503   this machine, not the engine's, has no connection left
    │   ├── EngineCrashedError      exit 1   HTTP 502   an engine died or froze while it worked
    │   └── MalformedAnswerError    exit 1   HTTP 502   an engine's answer breaks its protocol
    ├── CommandError                exit 1   HTTP 500   another program failed
    ├── RunFolderError              exit 2   HTTP 409   a run's folder is damaged, in use or of another run
    ├── TrainingError               exit 1   HTTP 500   training cannot go on
    ├── InvalidRunError             exit 13  HTTP 409   a measurement that proves nothing
    └── MissingPartError            exit 4   HTTP 501   an optional part is not installed

Every message has three parts: what happened with the value, what was possible (both in the message), and what to do
(`hint`, its own field, so that the command line and the API can show it apart).
"""

from typing import Any, ClassVar


class QwenOpsError(Exception):
    """The root of every error that qwenops raises on purpose.

    Args:
        message: What happened, with the value, and what would have been possible.
        hint: What to do about it; empty when nothing can be done.
        retry_after_s: Seconds after which another try makes sense; None when unknown.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        """Keep the parts apart."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s


class ConfigError(QwenOpsError):
    """An option, or a file of options, is wrong."""

    exit_code = 2
    http_status = 400
    code = "invalid_configuration"


class InvalidDataError(QwenOpsError):
    """Files of calls, labels or taxonomies are wrong; `problems` are all that were found, each with its place."""

    exit_code = 2
    http_status = 400
    code = "invalid_data"

    def __init__(self, message: str, *, hint: str = "", problems: tuple[Any, ...] = ()) -> None:
        """Keep what was found."""
        super().__init__(message, hint=hint)
        self.problems = problems


class InvalidRequestError(QwenOpsError):
    """A request is wrong; `param` names the field, where one is to blame."""

    exit_code = 2
    http_status = 400
    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep the field that is to blame."""
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.param = param


class ModelNotServedError(InvalidRequestError):
    """The request names a model that this server does not serve."""

    http_status = 404
    code = "model_not_found"


class PromptTooLongError(InvalidRequestError):
    """The prompt, with what it asks for, cannot fit into the context or the KV cache."""

    code = "context_length_exceeded"


class BodyTooLargeError(InvalidRequestError):
    """The body of the request is over the limit."""

    http_status = 413
    code = "body_too_large"


class AuthenticationError(QwenOpsError):
    """The request carries no key, or a wrong one."""

    exit_code = 2
    http_status = 401
    code = "invalid_api_key"


class ForbiddenError(QwenOpsError):
    """The key is known and may not do this."""

    exit_code = 2
    http_status = 403
    code = "forbidden"


class LimitExceededError(QwenOpsError):
    """The caller is over a limit of its own."""

    http_status = 429
    code = "rate_limit_exceeded"


class OverloadedError(QwenOpsError):
    """The server is full, draining or not ready."""

    http_status = 503
    code = "overloaded"


class DeadlineError(QwenOpsError):
    """A wait, or a request, took longer than it may."""

    http_status = 504
    code = "deadline_exceeded"


class ModelNotFoundError(QwenOpsError):
    """Neither the store nor the hub has this model."""

    exit_code = 4
    http_status = 404
    code = "model_not_found"


class ModelLoadError(QwenOpsError):
    """A model's files are missing, damaged or of another architecture."""

    code = "model_load_failed"


class ConversionError(ModelLoadError):
    """A converted tensor differs from its source by more than its format allows."""

    code = "conversion_failed"


class ParityError(ModelLoadError):
    """A compressed classifier does not say what the original says."""

    exit_code = 3
    code = "parity_failed"

    def __init__(self, message: str, *, hint: str = "", calls: tuple[str, ...] = ()) -> None:
        """Keep the ids of the calls that differ most, the worst first."""
        super().__init__(message, hint=hint)
        self.calls = calls


class UnsupportedModelError(ModelLoadError):
    """What was named is no model, or one of another architecture; trying again changes nothing."""


class DownloadError(QwenOpsError):
    """A transfer failed after its retries."""

    http_status = 502
    code = "download_failed"


class IntegrityError(DownloadError):
    """A file's hash is not the published one."""

    code = "integrity_failed"


class InsufficientMemoryError(QwenOpsError):
    """Something needs more memory than the limit allows."""

    http_status = 507
    code = "insufficient_memory"

    def __init__(self, message: str, *, needed_bytes: int, available_bytes: int, hint: str = "") -> None:
        """Keep how much was needed and how much there was, in bytes."""
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class InsufficientDiskError(QwenOpsError):
    """Something needs more disk than is free."""

    http_status = 507
    code = "insufficient_disk"

    def __init__(self, message: str, *, needed_bytes: int, available_bytes: int, hint: str = "") -> None:
        """Keep how much was needed and how much there was, in bytes."""
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class EngineError(QwenOpsError):
    """An engine failed at a request."""

    code = "engine_error"


class EngineUnavailableError(EngineError):
    """An engine is not installed, not running or restarting."""

    exit_code = 4
    http_status = 503
    code = "engine_unavailable"


class NoConnectionLeftError(EngineUnavailableError):
    """This side has no file, port or buffer left for one more connection; the engine has no part in it."""

    code = "no_connection_left"


class EngineCrashedError(EngineError):
    """An engine died, or stopped making progress, while it worked on a request."""

    http_status = 502
    code = "engine_crashed"


class MalformedAnswerError(EngineError):
    """What a remote engine sent is not what its protocol allows."""

    http_status = 502
    code = "malformed_answer"


class CommandError(QwenOpsError):
    """Another program failed; the message carries the end of what it said."""

    code = "command_failed"

    def __init__(self, message: str, *, hint: str = "", returncode: int | None = None, stderr: str = "") -> None:
        """Keep the exit status and standard error."""
        super().__init__(message, hint=hint)
        self.returncode = returncode
        self.stderr = stderr


class RunFolderError(QwenOpsError):
    """The folder of a measurement is damaged, in use, or belongs to another run."""

    exit_code = 2
    http_status = 409
    code = "run_folder"


class TrainingError(QwenOpsError):
    """Training cannot go on; `conversation_ids` are the calls that it broke on, where any are to blame."""

    code = "training_failed"

    def __init__(self, message: str, *, hint: str = "", conversation_ids: tuple[str, ...] = ()) -> None:
        """Keep the calls."""
        super().__init__(message, hint=hint)
        self.conversation_ids = conversation_ids


class InvalidRunError(QwenOpsError):
    """A measurement disturbed itself so much that nothing can be concluded from it."""

    exit_code = 13
    http_status = 409
    code = "invalid_run"


class MissingPartError(QwenOpsError):
    """An optional part is not installed."""

    exit_code = 4
    http_status = 501
    code = "part_missing"


def error_classes() -> dict[str, type[QwenOpsError]]:
    """Return every class of the tree by its name, for references and for crossing a process border."""
    found: dict[str, type[QwenOpsError]] = {}
    waiting: list[type[QwenOpsError]] = [QwenOpsError]
    while waiting:
        error = waiting.pop()
        found[error.__name__] = error
        waiting.extend(error.__subclasses__())
    return found

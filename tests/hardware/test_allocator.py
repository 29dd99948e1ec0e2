import mmap
from pathlib import Path

from qwenops.hardware.allocator import forget_file


def resident_kb(path: Path) -> int:
    """What of a mapped file is in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_a_mapped_file_is_let_go_of_and_still_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "with blanks in it.bin"
    content = bytes(range(256)) * 4096
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == content
        assert resident_kb(path) >= 1024
        forget_file(path)
        assert resident_kb(path) == 0
        assert mapped[:] == content


def test_a_mapping_that_was_written_to_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(8192))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"mine"
        forget_file(path)
        assert mapped[:4] == b"mine"


def test_nothing_happens_where_mappings_cannot_be_listed(tmp_path: Path) -> None:
    forget_file(tmp_path / "weights.bin", maps=tmp_path / "missing")

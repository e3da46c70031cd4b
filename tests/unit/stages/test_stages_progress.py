"""What a stage tells of bytes that several threads move."""

from concurrent.futures import ThreadPoolExecutor

from kilter.progress import Transfer

MIB = 1024 * 1024


class Noted:
    def __init__(self) -> None:
        self.updates: list[tuple[int, int | None, str]] = []

    def update(self, done: int, total: int | None = None, unit: str = "steps", values: object = None) -> None:
        self.updates.append((done, total, unit))


def test_bytes_of_all_threads_add_up():
    noted = Noted()
    transfer = Transfer(noted, "MiB read", 40 * MIB)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(transfer, [MIB // 4] * 160))
    assert noted.updates == [(done, 40, "MiB read") for done in range(1, 41)]


def test_what_is_less_than_a_mebibyte_is_not_told():
    noted = Noted()
    Transfer(noted, "MiB read")(MIB - 1)
    assert noted.updates == []

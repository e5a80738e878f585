"""Small files of a far store: read ahead and written behind, a bounded number at a time."""

import threading

import pytest

from capricious.data import storage
from capricious.data.ahead import THREADS, ahead, behind
from capricious.data.tables import part_numbers


def test_results_come_in_order_while_others_are_waited_for():
    together = threading.Barrier(THREADS)  # none comes back before so many are under way

    def read(number):
        together.wait(timeout=60)
        return number

    assert list(ahead(read, range(4 * THREADS))) == list(range(4 * THREADS))


def test_no_more_is_read_than_will_soon_be_needed():
    begun = []
    results = ahead(begun.append, range(10_000))
    for _ in range(3):
        next(results)
    assert len(begun) <= THREADS + 3


def test_an_error_comes_in_its_turn():
    results = ahead(lambda number: 6 // number, [3, 0, 1])
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_writing_goes_on_behind_and_is_done_at_the_end():
    together, written = threading.Barrier(THREADS), []

    def write(number):
        together.wait(timeout=60)
        written.append(number)

    with behind(write) as later:
        for number in range(4 * THREADS):
            later(number)
    assert sorted(written) == list(range(4 * THREADS))


def test_what_could_not_be_written_is_told_at_the_end_at_the_latest():
    def write(number):
        if number == 5:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), behind(write) as later:
        for number in range(6):
            later(number)


def test_the_parts_of_a_folder_are_told_by_one_listing(tmp_path):
    assert part_numbers(str(tmp_path / "nothing")) == set()
    for name in ("part-00007.parquet", "part-156249.parquet", "part-00003", "notes.txt"):
        storage.write_atomic(str(tmp_path / name), b"")
    assert part_numbers(str(tmp_path)) == {3, 7, 156249}

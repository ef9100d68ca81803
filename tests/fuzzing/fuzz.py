"""Thousands of odd and damaged files through every door that reads one: ``python tests/fuzzing/fuzz.py``.

For each input: it ends in time, within 2 GB, in an error of the project's own that names the file, or it is accepted
as exactly what its bytes say, which a second decoder tells. What is drawn depends on the seed, the kind and the number
of the input alone, so that ``--kind nifti --only 17`` repeats one.
"""

import argparse
import multiprocessing
import sys
from collections import defaultdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import child  # noqa: E402

COUNTS = {"nifti": 1000, "dicom": 300, "json": 300, "zip": 50}
SECONDS = 20.0  # for one input
BEGINNING = 300.0  # for the imports


class Looker:
    """A child process, begun anew where one hung or was killed."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._begin()

    def look(self, kind: str, group: str, seed: int, index: int) -> child.Report:
        """The report of one input."""
        self._pipe.send((kind, group, seed, index))
        try:
            if self._pipe.poll(SECONDS):
                report: child.Report = self._pipe.recv()
                return report
            fault = f"still at it after {SECONDS:.0f} s"
        except EOFError:
            self._process.join()
            fault = f"the process ended with {self._process.exitcode}"
        self.end()
        self._begin()
        return child.Report(False, fault, SECONDS, 0)

    def end(self) -> None:
        """Without waiting for what it is at."""
        self._process.kill()
        self._process.join()

    def _begin(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=child.serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(BEGINNING):
            raise RuntimeError("the child does not begin")
        self._pipe.recv()


def fuzz(counts: dict[str, int], *, seed: int = 0, only: int | None = None, groups: list[str] | None = None) -> bool:
    """Look at so many inputs of each kind, print a table, and say whether every claim held."""
    looker = Looker()
    reports: dict[tuple[str, str], list[child.Report]] = defaultdict(list)
    for kind, count in counts.items():
        for group in child.groups()[kind]:
            if groups and group not in groups:
                continue
            for index in range(count) if only is None else [only]:
                report = looker.look(kind, group, seed, index)
                reports[kind, group].append(report)
                if report.fault:
                    print(f"VIOLATION {kind} {group} {index}: {report.fault}", flush=True)
    looker.end()
    print(table(reports))
    return not any(report.fault for found in reports.values() for report in found)


def table(reports: dict[tuple[str, str], list[child.Report]]) -> str:
    """A line for each kind and group."""
    lines = ["| kind | inputs | refused | accepted | violations | slowest, s | most memory, MB |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for (kind, group), found in reports.items():
        faults, accepted = sum(bool(one.fault) for one in found), sum(one.accepted for one in found)
        slowest, most = max(one.seconds for one in found), max(one.bytes for one in found) / 2**20
        lines.append(
            f"| {kind} {group} | {len(found)} | {len(found) - accepted - faults} | {accepted} | {faults} "
            f"| {slowest:.2f} | {most:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=COUNTS, help="of this kind alone")
    parser.add_argument("--group", action="append", help="of these groups of a kind alone, such as datalist")
    parser.add_argument("--count", type=int, help="so many of each kind and group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the one of this number")
    asked = parser.parse_args()
    kinds = [asked.kind] if asked.kind else list(COUNTS)
    counts = {kind: COUNTS[kind] if asked.count is None else asked.count for kind in kinds}
    sys.exit(not fuzz(counts, seed=asked.seed, only=asked.only, groups=asked.group))


if __name__ == "__main__":
    main()

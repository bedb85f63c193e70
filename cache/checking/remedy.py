"""What to do about damage: which files to delete before the shards are computed again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cache.checking.findings import Problem
from cache.format.layout import COMMITS, ShardGrid, ZarrArray, chunk_of


def remedy_for(
    problems: Iterable[Problem],
    arrays: Iterable[ZarrArray],
    grid: ShardGrid,
    commits: Collection[int],
) -> str:
    """One line that repairs all these problems; empty where there are none.

    ``commits`` are the shards whose commits can be read. A map's damaged file is replaced when
    its shard is computed again. A descriptor's has rows of many shards: it goes, and with it
    the commits of all of them.
    """
    by_name = {array.name: array for array in arrays}
    beyond: list[str] = []
    strays: set[str] = set()
    shards: set[int] = set()
    files: set[str] = set()
    lost_commit = False
    for problem in problems:
        folder, _, name = problem.where.rpartition("/")
        chunk = chunk_of(name)
        if problem.kind == "unexpected":
            strays.add(problem.where)
        elif folder == COMMITS:
            shards.add(int(name.removesuffix(".json")))
        elif folder not in by_name or chunk is None:
            beyond.append(problem.where)
        elif problem.kind == "commit":
            lost_commit = True
        elif by_name[folder].sharded:
            shards.add(chunk)
        else:
            n_shards = grid.chunk_rows // grid.shard_size
            first = chunk * n_shards
            shards.update(set(range(first, first + n_shards)).intersection(commits))
            if problem.kind != "missing":
                files.add(problem.where)
    if beyond:
        return whole_store_remedy(list(dict.fromkeys(beyond)))
    steps = []
    if COMMITS in strays:
        return f"put the folder itself where the link {COMMITS} is"
    if strays:
        steps.append(f"move {', '.join(sorted(strays))} out of the store")
    if shards:
        steps.append(f"delete {', '.join([*_commit_names(sorted(shards)), *sorted(files)])}")
    if shards or lost_commit:
        steps.append("run every precompute that wrote to the store again")
    return ", then ".join(steps)


def whole_store_remedy(files: Sequence[str]) -> str:
    """What to do where files that nothing computes again are damaged."""
    return f"restore {', '.join(files)} from a copy, or compute the store again in another folder"


def _commit_names(shards: Sequence[int]) -> list[str]:
    """The commits of sorted shards; neighbours as one range."""
    runs: list[list[int]] = []
    for shard in shards:
        if runs and shard == runs[-1][-1] + 1:
            runs[-1].append(shard)
        else:
            runs.append([shard])
    return [
        " to ".join(f"{COMMITS}/{shard:06d}.json" for shard in dict.fromkeys((run[0], run[-1])))
        for run in runs
    ]

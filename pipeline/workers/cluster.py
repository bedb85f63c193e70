"""Which dask workers: an existing scheduler's, or processes of this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from dask.distributed import Client, LocalCluster

from pipeline.bar import NO_LIBRARY_BARS


class ClusterError(RuntimeError):
    """A cluster that cannot be reached or used, or that loses its workers."""


@dataclass(frozen=True)
class Cluster:
    """Which workers, and how long they may take."""

    scheduler: str | None = None
    """Address as `tcp://host:8786`."""
    n_workers: int = 1
    """Processes to start here where no scheduler is named."""
    shard_limit: float | None = None
    """Seconds after which a shard is taken from its worker; None goes by what shards took."""


@contextmanager
def connected(cluster: Cluster, log: Callable[[str], None]) -> Iterator[Client]:
    """A client of the cluster; one that was started here ends with it.

    Says in one line how many workers there are, and where to watch them. Raises ClusterError
    where no scheduler answers, or a worker has several threads.
    """
    if cluster.scheduler is not None:
        try:
            client = Client(cluster.scheduler, timeout=20)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"--scheduler {cluster.scheduler}: no scheduler answers there ({error}); "
                "start one with `dask scheduler`, or use --workers N"
            ) from None
        with client:
            _welcome(client, log)
            yield client
        return
    # Processes survive each other, and threads would share one backbone's device badly. The
    # dashboard is for this machine alone: it asks nobody who they are.
    local = LocalCluster(
        n_workers=cluster.n_workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        env=NO_LIBRARY_BARS,  # Several workers at once would write over each other's.
    )
    with local, Client(local) as client:
        _welcome(client, log)
        yield client


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of its workers at present, by address."""
    # By default some versions of dask tell of five.
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def _welcome(client: Client, log: Callable[[str], None]) -> None:
    workers = workers_of(client)
    for address, worker in workers.items():
        if worker["nthreads"] > 1:
            raise ClusterError(
                f"worker {address} has {worker['nthreads']} threads, which would share one "
                "backbone; start workers with `dask worker ADDR --nthreads 1`, several on a "
                "machine with --nworkers"
            )
    count = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
    line = f"{count}, scheduler {client.scheduler.address}"
    # Of another machine's scheduler it is not known whether it can draw one: the page says so.
    has_page = client.cluster is None or find_spec("bokeh") is not None
    if has_page and "dashboard" in client.scheduler_info()["services"]:
        line += f", dashboard {client.dashboard_link}"
    log(line)


def device_of_worker(device: str, name: object, n_devices: int) -> str:
    """The device of one of several workers on a machine: devices are dealt out in turn.

    Args:
        device: `extraction.device`; one that is named with its number stays as it is.
        name: the worker's in dask: a number where this program started it, else its last `-K`
            counts, as in `dask worker --nworkers 4 --name gpu`. Without one: the first device.
        n_devices: CUDA devices that the worker sees.
    """
    if device not in ("auto", "cuda") or n_devices == 0:
        return device
    number = re.search(r"(?:^|-)(\d+)$", str(name))
    return f"cuda:{int(number[1]) % n_devices if number else 0}"

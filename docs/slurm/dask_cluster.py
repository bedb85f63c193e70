"""Dask workers as SLURM jobs, one GPU each; prints the scheduler's address and keeps them alive.

    python docs/slurm/dask_cluster.py --jobs 8
    python docs/slurm/dask_cluster.py --script      # what sbatch would be given

Needs `pip install "sketchfusion[cluster]"`. Leave it running on a login node (in tmux, say), and
start `sketchfusion precompute ... --scheduler ADDRESS` beside it. Set the resources to your site's.
"""

from __future__ import annotations

import argparse
import signal

from dask_jobqueue import SLURMCluster


def make_cluster() -> SLURMCluster:
    """The cluster without a job yet."""
    return SLURMCluster(
        # One worker with one thread a job: a worker keeps one backbone on one GPU.
        cores=1,
        processes=1,
        job_cpu=8,
        memory="32GB",
        walltime="04:00:00",
        # A worker leaves in good time before its job ends, not all of them at once; another
        # job takes its place.
        worker_extra_args=["--lifetime", "225m", "--lifetime-stagger", "10m"],
        job_extra_directives=["--gpus=1", "--requeue", "--output=logs/%j.out"],
        job_script_prologue=["export HF_HUB_OFFLINE=1", "export OMP_NUM_THREADS=8"],
        # The dashboard asks nobody who they are: reach it through an SSH tunnel.
        scheduler_options={"dashboard_address": "127.0.0.1:8787"},
    )


def main() -> None:
    """Keep so many workers until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=4, help="workers to keep")
    parser.add_argument("--script", action="store_true", help="print the job script and end")
    arguments = parser.parse_args()
    with make_cluster() as cluster:
        if arguments.script:
            print(cluster.job_script())
            return
        cluster.adapt(minimum_jobs=arguments.jobs, maximum_jobs=arguments.jobs)
        print(cluster.scheduler_address, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()

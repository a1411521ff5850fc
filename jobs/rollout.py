"""Run the DAG up to rollout: `ray job submit -- python jobs/rollout.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("rollout",))

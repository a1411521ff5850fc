"""Run the DAG up to register: `ray job submit -- python jobs/register.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("register",))

"""Run the DAG up to fetch_images: `ray job submit -- python jobs/fetch_images.py --recipe demo`."""

from pipelines.cli.run import main

if __name__ == "__main__":
    main(until=("fetch_images",))

"""The durable DAG on Ray and S3, and the stages that bind llava/ to Ray Data, Train and Serve."""

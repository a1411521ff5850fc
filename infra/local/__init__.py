"""The services of one machine: S3, MLflow, Ray and the picture server, all on loopback, all under one folder."""

"""What the pipeline stands on."""

"""What exists and runs on a device: bundles, runtimes, the runner, its messages. Importing this room loads no torch."""

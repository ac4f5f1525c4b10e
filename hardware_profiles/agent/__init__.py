"""The process on the device: what runs a job, isolated, and what reads the device's own figures."""

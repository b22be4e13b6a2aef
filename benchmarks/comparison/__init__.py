"""Parts of benchmarks.compare: what is compared, on which images, how it is checked, and how it is shown."""

"""The loader's command line: options, and what each command does with them."""

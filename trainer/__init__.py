"""AlexNet, trained from the loader service: two columns on two devices."""

__version__ = "0.1.0"

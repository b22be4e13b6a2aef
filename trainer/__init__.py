"""AlexNet, trained from the loader service: two columns on two devices."""

__version__ = "0.2.0"

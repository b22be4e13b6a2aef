"""AlexNet, trained from the loader service: two columns on two devices."""

"""The network: a recipe as layers with shapes, and the two columns that compute them."""

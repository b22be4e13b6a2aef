"""What a stream is made of: order, draws, decoding, cropping, packing. Knows no RPCs."""

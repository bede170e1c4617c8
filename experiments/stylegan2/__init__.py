"""StyleGAN2, the first baseline of the paper's Table 1."""

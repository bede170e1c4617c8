"""What the pipeline is compared with: a conditional StyleGAN2, trained from nothing on the same slices."""

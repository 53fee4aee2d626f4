"""Model families: which networks they have and how they are sampled."""

"""The method: weights and gains of pixels, trust, losses, directional derivatives of any network. Needs torch and numpy alone."""

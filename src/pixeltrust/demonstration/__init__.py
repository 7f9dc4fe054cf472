"""The whole job on made-up images, and its page."""

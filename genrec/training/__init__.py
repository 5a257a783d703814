"""Lightning shells around models, losses and search: what is trained, how, and how it goes on after a kill."""

"""View: predictions of trained models as one page that works without a network. See docs/view.md."""

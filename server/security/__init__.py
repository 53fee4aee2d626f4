"""What every request passes before the app sees it: whom the server answers, whose pages may change things, how much."""

"""Training curves as functions of the completed share of a run: collapse check of sizes, and forecasts of the end."""

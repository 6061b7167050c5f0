"""Training curves of one schedule: a check that the curves of all sizes agree, and forecasts of final losses."""

"""Features, network, calibration, policy and checkpoint of the router."""

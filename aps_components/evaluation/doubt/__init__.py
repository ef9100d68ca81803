"""How far an answer is to be trusted: calibrated on held-out scans, said of every new one."""

"""From a folder of scans to a complete bundle: rounds of training, decided by held-out scans (``aps train``)."""

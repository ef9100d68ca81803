"""What methods, their parts, uncertainties and sliding windows are worth. The product imports nothing of it."""

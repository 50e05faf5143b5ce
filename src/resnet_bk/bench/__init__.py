"""The benchmark: protocols, audit, runs and reports. Imports nothing heavy by itself."""

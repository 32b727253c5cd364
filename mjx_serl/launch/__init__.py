"""One run in several processes, on one machine or many: started, watched, started again."""

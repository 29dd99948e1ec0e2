"""The report of a run: one offline HTML file, made from nothing but the run's folder."""

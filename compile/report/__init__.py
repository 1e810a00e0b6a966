"""One HTML page from tuning logs, trials, profiles and peers' times: data, charts, page."""

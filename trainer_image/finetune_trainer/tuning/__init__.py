"""One tuning: a model that is measured, trained, measured again and saved. Brings torch and the libraries in."""

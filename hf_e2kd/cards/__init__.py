"""Model cards of trained students, and plots of their explanations."""

"""What is shown of a trained student: pictures of its explanations, and its card."""

"""The Hugging Face Hub: uploads, published students, and the redaction of what is published."""

"""An embedded server that speaks the service's wire on loopback and draws real images. It is not the model."""

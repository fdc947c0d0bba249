"""The request and response of the Azure ML catalogue card, and the server that answers them."""

mod quantize;

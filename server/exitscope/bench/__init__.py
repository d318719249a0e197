"""`exitscope bench`: fault rates by vCPUs and mode on this machine, traced and untraced, as the kernel series did."""

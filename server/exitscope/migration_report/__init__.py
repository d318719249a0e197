"""What a migration came down to, from its recording: brownout, stages, worst moments, QEMU's account beside ours."""

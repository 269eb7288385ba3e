package service

// AwaitBuilds returns when no image is being made.
func (s *Service) AwaitBuilds() { s.builds.running.Wait() }

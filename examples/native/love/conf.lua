function love.conf(t)
  t.window.title, t.window.width, t.window.height = "genin: a scroll of ninjas", 720, 480
  t.modules.audio, t.modules.sound, t.modules.physics = false, false, false
end

-- A scroll of ninjas that is painted while it rolls by: love examples/native/love BUNDLE [LIBRARY] [FRAMES SCREENSHOT.png]
-- With the last two it ends by itself, after so many frames and at least three pictures.
local genin = require("genin")

local HAIR = { "spiky blond hair", "long black hair", "a silver ponytail", "a red bun", "pink twintails" }
local PLACE = { "in a forest", "by a waterfall", "on a rooftop at night", "at a shrine in the rain", "in the desert at noon" }
local SIDE, GAP, SPEED = 216, 24, 60

local painter, cards, offset, number = nil, {}, 0, 0
local frames, late, pictures = 0, 0, 0
local frames_asked, screenshot

local function add()
  number = number + 1
  local prompt = "a ninja with " .. HAIR[love.math.random(#HAIR)] .. " " .. PLACE[love.math.random(#PLACE)]
  local card = { prompt = prompt, x = (#cards > 0 and cards[#cards].x or -SIDE) + SIDE + GAP, age = 0 }
  card.ticket = painter:submit(prompt, { seed = number, tag = number })
  cards[#cards + 1] = card
end

function love.load(arguments)
  if arguments[2] then genin.library = arguments[2] end
  painter = genin.open(arguments[1])
  frames_asked, screenshot = tonumber(arguments[3]), arguments[4]
  love.graphics.setBackgroundColor(0.94, 0.9, 0.8)
  for _ = 1, 5 do add() end
end

function love.update(seconds)
  frames, late = frames + 1, late + (seconds > 0.02 and 1 or 0)
  for _, event in ipairs(painter:poll()) do
    if event.kind == "failed" and event.result ~= "cancelled" then error(event.message) end
    if event.kind == "done" then
      pictures = pictures + 1
      for _, card in ipairs(cards) do
        if card.ticket == event.ticket then card.image = love.graphics.newImage(painter:take(event)) end
      end
    end
  end
  offset = offset + SPEED * seconds
  for _, card in ipairs(cards) do card.age = card.age + (card.image and seconds or 0) end
  if cards[1].x - offset < -SIDE - GAP then
    painter:cancel(table.remove(cards, 1).ticket)
    add()
  end
  if frames_asked and frames >= frames_asked and pictures >= 3 then
    frames_asked = nil
    love.graphics.captureScreenshot(function(image)
      local file = assert(io.open(screenshot, "wb"))
      file:write(image:encode("png"):getString())
      file:close()
      print(frames .. " frames, " .. late .. " late, " .. pictures .. " pictures")
      love.event.quit(pictures > 0 and 0 or 1)
    end)
  end
end

function love.draw()
  love.graphics.setColor(0.35, 0.22, 0.15)
  love.graphics.rectangle("fill", 0, 96, 720, 14)
  love.graphics.rectangle("fill", 0, 384, 720, 14)
  for _, card in ipairs(cards) do
    local x, y = card.x - offset, 132
    love.graphics.setColor(1, 1, 1, 0.6)
    love.graphics.rectangle("fill", x - 6, y - 6, SIDE + 12, SIDE + 12, 6)
    if card.image then
      love.graphics.setColor(1, 1, 1, math.min(1, card.age * 4))
      love.graphics.draw(card.image, x, y, 0, SIDE / card.image:getWidth(), SIDE / card.image:getHeight())
    end
    love.graphics.setColor(0.25, 0.17, 0.12)
    love.graphics.printf(card.prompt, x, y + SIDE + 62, SIDE, "center")
  end
end

function love.keypressed(key)
  if key == "escape" then love.event.quit() end
end

function love.quit()
  painter:close() -- also in the middle of a picture
end

'use strict';

require('https')
  .createServer({})
  .on('error', (error) => process.send(error.code))
  .listen(+process.env.PORT);

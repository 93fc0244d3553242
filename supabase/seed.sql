-- A user to try the server with: demo@example.com, password demo-password.
-- For databases on your own machine only: the password is public.
--
-- It can be run again. Next: `chatbot-ui-api token --user demo@example.com`.

do $$
declare
  demo constant uuid := 'dec00000-0000-4000-8000-000000000001';
  address constant text := 'demo@example.com';
begin
  -- Another user may have the address already.
  if exists (select from auth.users where email = address and id <> demo) then
    raise notice '% exists already: nothing is changed', address;
    return;
  end if;

  if exists (
    select from pg_attribute
    where attrelid = 'auth.users'::regclass and attname = 'encrypted_password' and not attisdropped
  ) then
    -- Supabase's auth server: it signs nobody in whose tokens are null, or who
    -- has no identity. The hash is of the password above.
    insert into auth.users (
      id, instance_id, aud, role, email, encrypted_password, email_confirmed_at,
      confirmation_token, recovery_token, email_change, email_change_token_new, email_change_token_current,
      phone_change, phone_change_token, reauthentication_token,
      raw_app_meta_data, raw_user_meta_data, created_at, updated_at
    ) values (
      demo, '00000000-0000-0000-0000-000000000000', 'authenticated', 'authenticated', address,
      '$2a$10$b0F.5w81pCRtDiE6JiG7PuaSPuzErTgWqTe3dMHHJ7fkDcUh6E7nG', now(),
      '', '', '', '', '', '', '', '',
      '{"provider": "email", "providers": ["email"]}', '{}', now(), now()
    ) on conflict (id) do nothing;
    insert into auth.identities (
      id, provider_id, user_id, provider, identity_data, last_sign_in_at, created_at, updated_at
    ) values (
      demo, demo::text, demo, 'email',
      jsonb_build_object('sub', demo, 'email', address, 'email_verified', true, 'phone_verified', false),
      now(), now(), now()
    ) on conflict (provider_id, provider) do nothing;
  else
    -- The stand-in that the migrations make where there is no auth server.
    insert into auth.users (id, email) values (demo, address) on conflict (id) do nothing;
  end if;

  -- The trigger made the profile. What was entered since stays.
  update public.profiles set has_onboarded = true, display_name = 'Demo'
    where user_id = demo and display_name = '';
  update public.profiles set openai_api_key = 'sk-enter-your-own'
    where user_id = demo and coalesce(openai_api_key, '') = '';
end
$$;
